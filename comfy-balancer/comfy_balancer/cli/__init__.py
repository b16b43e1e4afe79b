"""`comfyctl`: the operator's command. One module for each group of subcommands; settings as the balancer reads them."""
