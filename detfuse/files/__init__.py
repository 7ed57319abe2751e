"""Files written at once and read without trust: text and tables, records, tensors."""
