// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
/* A stand-in for NVIDIA's second kernel module, which keeps the first one loaded. */
#include <linux/module.h>

int nvidia_get_rm_ops(void);

static int __init load(void)
{
	return nvidia_get_rm_ops();
}

static void __exit unload(void)
{
}

module_init(load);
module_exit(unload);
MODULE_DESCRIPTION("stand-in for NVIDIA's unified memory module");
MODULE_LICENSE("Dual MIT/GPL");
MODULE_VERSION(NV_VERSION_STRING);
