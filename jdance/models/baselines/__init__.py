"""The paper's baselines (Shen et al., 2021, Table 4): STR and QES."""
