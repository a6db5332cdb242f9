"""DICOM folders to NIfTI files, once, before anything else looks at them. A site runs this on its own scans."""
