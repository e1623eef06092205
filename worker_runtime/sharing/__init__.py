"""A runtime fed from a store that other processes use too."""
