"""Encoders that learn: networks before they are put to rest, and clips that are decoded again and
again.

`learn finetune` trains them. It knows neither this package nor this room: `cli.py` hands it what is
made here as the protocols of `learn/finetuning/protocols.py`.

Decode processes import `moments.py`, so nothing here imports torch but `network.py`.
"""
