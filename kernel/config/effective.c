/* SPDX-License-Identifier: Apache-2.0 */
/* effective.c - the effective configuration itself, in a file of its own so that unit tests of other parts can link it alone. */
#include "config/node.h"

struct zk_node zk_node;
