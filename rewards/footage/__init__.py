"""What in a video is no single static scene: cuts, fades, bars, overlays, split screens; and near-copies."""
