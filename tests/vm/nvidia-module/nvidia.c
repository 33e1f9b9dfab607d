// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
/*
 * A stand-in for NVIDIA's kernel module: what tools read of it before any GPU answers, and nothing else.
 *
 * Like the original it has /proc/driver/nvidia/version, the character devices of major number 195 (whose nodes
 * nvidia-modprobe makes), and cannot be unloaded while one of them is open.
 */
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/version.h>

#define MAJOR_NUMBER 195

static int modeset;
module_param_named(NVreg_PreserveVideoMemoryAllocations, modeset, int, 0444);

static const struct pci_device_id functions[] = {
	{PCI_DEVICE(0x10de, PCI_ANY_ID), .class = 0x030000, .class_mask = 0xff0000},
	{},
};
MODULE_DEVICE_TABLE(pci, functions);

static int show_version(struct seq_file *file, void *unused)
{
	seq_puts(file, "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  " NV_VERSION_STRING
		       "  Release Build  (test-bed)  Tue Nov 18 16:00:00 UTC 2025\n");
	seq_puts(file, "GCC version:  gcc version " __VERSION__ "\n");
	return 0;
}

static int show_params(struct seq_file *file, void *unused)
{
	seq_printf(file, "PreserveVideoMemoryAllocations: %d\n", modeset);
	return 0;
}

static int open_device(struct inode *inode, struct file *file)
{
	return 0;
}

static const struct file_operations operations = {.owner = THIS_MODULE, .open = open_device};
static struct proc_dir_entry *directory;

/* nvidia-uvm and nvidia-modeset use it, so that they have to be unloaded first. */
int nvidia_get_rm_ops(void);
int nvidia_get_rm_ops(void)
{
	return 0;
}
EXPORT_SYMBOL(nvidia_get_rm_ops);

static int __init load(void)
{
	int error = register_chrdev(MAJOR_NUMBER, "nvidia-frontend", &operations);

	if (error < 0)
		return error;
	directory = proc_mkdir("driver/nvidia", NULL);
	if (!directory || !proc_create_single("version", 0444, directory, show_version) ||
	    !proc_create_single("params", 0444, directory, show_params)) {
		proc_remove(directory);
		unregister_chrdev(MAJOR_NUMBER, "nvidia-frontend");
		return -ENOMEM;
	}
	return 0;
}

static void __exit unload(void)
{
	proc_remove(directory);
	unregister_chrdev(MAJOR_NUMBER, "nvidia-frontend");
}

module_init(load);
module_exit(unload);
MODULE_DESCRIPTION("stand-in for NVIDIA's kernel module");
MODULE_LICENSE("Dual MIT/GPL");
MODULE_VERSION(NV_VERSION_STRING);
