"""`python -m shimv2`: the shim binary."""

from shimv2.cli import main

main()
