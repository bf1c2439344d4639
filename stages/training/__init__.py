"""Train the models of a run, and choose the web texts that finetuning rehearses on."""
