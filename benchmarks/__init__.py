"""Speed and memory of the layers, side by side with other implementations; README.md says how and what came out."""
