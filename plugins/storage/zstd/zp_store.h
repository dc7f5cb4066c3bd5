/* SPDX-License-Identifier: Apache-2.0 */
/* zp_store.h - packed segments for a store: goes into zs_conf.pack. */
#ifndef ZP_STORE_H
#define ZP_STORE_H
#include "zs.h"

extern const struct zs_pack_ops zp_store_ops;
#endif
