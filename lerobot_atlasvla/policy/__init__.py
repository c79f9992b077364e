"""Parts of the three modules LeRobot looks for: checks of settings, statistics and pipelines, tokenizers, chunking."""
