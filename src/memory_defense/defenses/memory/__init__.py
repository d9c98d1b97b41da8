"""Memory Defense (Adhikarla, Luo & Davison): a classifier behind a memory-masking autoencoder.

Read `slots` (section 3.2), `autoencoder` (Table 4), `defense` (section 3.1), `objective` (section 3.4), then
`surrogates`: what an adversary who knows the defense differentiates. `presets` names three readings of the
paper.
"""
