"""Encoders that learn: `learn finetune`.

What is trained are networks of `extract`, on clips that `extract` decodes; both come as the
protocols of `learn/finetuning/protocols.py`, handed in by `cli.py`.
"""
