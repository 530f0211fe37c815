"""Derivatives and integrals of any function of tensors; no model, layer or feature in sight."""
