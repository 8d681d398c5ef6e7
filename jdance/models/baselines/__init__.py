"""The systems that the paper compares itself with (Shen et al., 2021, Table 4): STR and QES."""
