"""The measures that have a column in the table of clips, in the order in which an evaluation shows them."""

CLIP_MEASURES = (
    "fault",
    "error",
    "reprojection",
    "reprojection_psnr",
    "reprojection_ssim",
    "reprojection_lpips",
    "mvcs",
    "error_3dcs",
    "epipolar",
    "motion",
    "displacement",
    "image_motion",
    "sharpness",
    "saturation",
    "roughness",
    "truth_psnr",
    "first_frame",
    "follows",
)
