"""P_mSC_n inside of programs of others."""
