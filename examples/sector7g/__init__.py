"""Sector 7G of the nuclear power plant: six arq queues on one Redis."""
