"""P_mSC_n in nnU-Net (Isensee et al. 2021), from version 2.8 on.

``python -m psc.integrations.nnunet`` prints the folder for ``nnUNet_extTrainer``, in which nnU-Net
then finds what ``psc.integrations.nnunet.trainers`` has. docs/nnunet.md says how it is used.
"""
