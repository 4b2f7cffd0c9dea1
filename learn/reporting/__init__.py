"""The parts of `learn report`: what is gathered, what is drawn, what is said."""
