"""The annotation game behind gRefCOCO: annotators describe objects, validators find them, a referee compares.

Liu (2024), section 6.2.2 and figure 6.4, after ReferItGame (Kazemzadeh et al., 2014).
"""
