"""`python -m adafocus`, as ``torchrun`` starts it."""

from adafocus.cli import app

if __name__ == "__main__":
    app()
