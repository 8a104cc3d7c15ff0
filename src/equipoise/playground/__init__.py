"""The playground: a small world of text with known truth, so that every method can be tried and checked without downloads.

`world` holds prompts, `answers` how the untrained assistant speaks, `truth` what is helpful and what is unsafe,
`annotators` how simulated people label pairs, `base` the language model. Only `base` needs torch.
"""
