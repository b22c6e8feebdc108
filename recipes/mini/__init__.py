"""How `mini`, the embedded model, is made: data, tokenizer, networks, scores."""
