"""AMD GPUs, through amdgpu."""
