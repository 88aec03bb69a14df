"""VideoReward (arXiv 2501.13918): Qwen2-VL with a head for visual quality, motion quality and text alignment.

Its facts are those of the published code (github.com/KwaiVGI/VideoAlign, MIT), its weights are
KlingTeam/VideoReward (Apache-2.0). inputs.py makes tokens and patches, network.py the network, weights.py
finds and reads weights, weights.py also makes safetensors of the published pickle, settings.py reads the
words that it is asked in, which are the published code's and come from the user.
"""
