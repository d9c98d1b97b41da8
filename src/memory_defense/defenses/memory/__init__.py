"""Memory Defense (Adhikarla, Luo & Davison): a classifier behind a memory-masking autoencoder.

In the order of the paper: `slots` is the memory and its masked attention (section 3.2), `autoencoder` the encoder
and decoder (Table 4), `slotted` the whole mechanism (section 3.1) and `objective` its training (section 3.4). Then
`surrogates`, what adversaries differentiate; `evidence`, the scores of its flag; `defense`, which
puts all of it together; and `presets`, three readings of the paper with the builder.
"""
