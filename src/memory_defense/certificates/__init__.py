"""What is proven about a classifier's answers: randomized smoothing (L2), interval bounds (L-inf).

A certificate is a label and a radius for each image: inside the ball of that radius, and inside [0, 1], no image
gets another label. Nothing here is an attack, and nothing is estimated without a stated probability of error.
"""
