"""MED, BLIP's mixture of encoder-decoder: sizes, modules, tokenizer, decoding, model directories."""
