"""What a run will need before it starts: memory, FLOPs, bytes and hours, by formulas that tests hold against the code."""
