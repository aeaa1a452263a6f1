"""Random lives of many users with everything switched on, and what must hold however they went."""
