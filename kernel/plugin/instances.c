/* SPDX-License-Identifier: Apache-2.0 */
/* instances.c - the list of instances, in a file of its own so that unit tests of other parts can link it alone. */
#include "plugin/instance.h"

struct zk_instance **zk_instances;
uint32_t zk_n_instances;
