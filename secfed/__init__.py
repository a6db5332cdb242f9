"""secfed: privacy-hardened federated learning for cross-modality medical image segmentation."""
