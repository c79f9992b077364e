"""Files and folders that appear whole or not at all, whoever else writes, and whatever is killed meanwhile."""
