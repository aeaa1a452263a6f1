"""Who answers: the agent, its loop, its tools and its events."""
