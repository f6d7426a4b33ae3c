"""Deployment: exports models to ONNX, torch.export and TorchScript, and optimizes them for inference."""
