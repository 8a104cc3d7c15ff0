"""equipoise: align language models to be helpful and harmless, and see what each level of safety costs."""

__version__ = "0.1.0"
