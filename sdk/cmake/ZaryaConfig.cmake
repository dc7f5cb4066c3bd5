# find_package(Zarya) for a plugin author: gives the target zarya::lib (public headers and the static helper library) and the
# function zarya_add_plugin.
get_filename_component(_zarya_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT EXISTS "${_zarya_prefix}/include/zarya/abi.h") # lib/<triplet>/cmake/zarya
  get_filename_component(_zarya_prefix "${CMAKE_CURRENT_LIST_DIR}/../../../.." ABSOLUTE)
endif()
find_library(_zarya_lib zarya_lib PATHS "${CMAKE_CURRENT_LIST_DIR}/../.." NO_DEFAULT_PATH REQUIRED)
if(NOT TARGET zarya::lib)
  add_library(zarya::lib STATIC IMPORTED)
  set_target_properties(zarya::lib PROPERTIES IMPORTED_LOCATION "${_zarya_lib}"
    INTERFACE_INCLUDE_DIRECTORIES "${_zarya_prefix}/include;${_zarya_prefix}/include/zarya-lib" INTERFACE_LINK_LIBRARIES deflate)
endif()
include("${CMAKE_CURRENT_LIST_DIR}/Zarya.cmake")
