"""From pictures to people: pose networks, their weights, and the decode of their maps."""
