"""What a training leaves in its folder, and how it goes on from there."""
