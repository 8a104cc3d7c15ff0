"""The playground: a small world of text with known truth, where every method can be tried without downloads.

`world` holds prompts, `answers` how the untrained assistant speaks, `truth` what is helpful and what is unsafe,
`annotators` how simulated people label pairs, `base` the language model. Only `base` needs torch.
"""
