"""DICOM series as volumes, for their conversion to NIfTI. A site runs this on its own scans; training never does.

It needs pydicom and Pillow, which `pip install 'secfed[dicom]'` brings; nothing else of this program imports it, so a
site that has NIfTI files holds neither parser.
"""
