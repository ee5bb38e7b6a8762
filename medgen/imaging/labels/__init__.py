"""What is known about images besides their pixels."""
