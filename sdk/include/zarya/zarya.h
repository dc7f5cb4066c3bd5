/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/zarya.h - every header of the SDK at once. Reading order: abi.h, plugin.h, then the interface you provide. */
#ifndef ZARYA_ZARYA_H
#define ZARYA_ZARYA_H
#include "zarya/abi.h"
#include "zarya/broker.h"
#include "zarya/call.h"
#include "zarya/commands.h"
#include "zarya/durability.h"
#include "zarya/err.h"
#include "zarya/filter.h"
#include "zarya/find.h"
#include "zarya/hooks.h"
#include "zarya/io.h"
#include "zarya/log.h"
#include "zarya/mem.h"
#include "zarya/message.h"
#include "zarya/metrics.h"
#include "zarya/plugin.h"
#include "zarya/registry.h"
#include "zarya/reply.h"
#include "zarya/requests.h"
#include "zarya/state.h"
#include "zarya/storage.h"
#include "zarya/store.h"
#include "zarya/timer.h"
#include "zarya/transport.h"
#include "zarya/work.h"
#endif
