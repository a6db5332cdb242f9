"""Plain Flower FedAvg of the same model on the same scans, as a Flower user would write it: the deployment's yardstick.

Nothing of secfed's protocol is in it. The site's folder is read for its scans, and the model is trained by the same
code, so that what differs is how updates travel.
"""
