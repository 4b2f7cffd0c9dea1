"""Stands for torchcodec where it is not installed: what microshot asks of it, on PyAV."""
