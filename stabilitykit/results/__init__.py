"""What a measurement returns: metrics with units, frozen results, and the one renderer of messages."""
