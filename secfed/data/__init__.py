"""Cases, readers, the phantom, preprocessing and sampling."""
