"""The `learn` command line, a module for each group of commands."""

from learn.commands import data, evaluation, frozen, inference, training
from learn.commands.options import app

__all__ = ["app", "data", "evaluation", "frozen", "inference", "training"]
