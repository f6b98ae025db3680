# A stand-in for the toolkit's module of this name, for tests: it has the two functions that our build calls,
# and treats the install prefix, the build folder and blanks in paths as that one does. What it compiles with
# are two shell scripts beside it, and a file `fault` in the toolkit's folder makes them fail.
if(NOT DEFINED SOC_VERSION OR NOT RUN_MODE STREQUAL "npu")
  message(FATAL_ERROR "the stand-in needs SOC_VERSION, and RUN_MODE npu")
endif()
set(STAND_IN_DIR "${CMAKE_CURRENT_LIST_DIR}")
if(EXISTS "${ASCEND_CANN_PACKAGE_PATH}/configure_fault")
  message(FATAL_ERROR "the stand-in cannot be configured: it has no python3")
endif()

function(ascendc_fatbin_library name source)
  get_filename_component(source "${source}" ABSOLUTE)
  # Holds properties only. Who builds it fails, for there is no such source.
  set_source_files_properties("${CMAKE_CURRENT_BINARY_DIR}/${name}_stub.cpp" PROPERTIES GENERATED TRUE)
  add_library(${name}_interface STATIC EXCLUDE_FROM_ALL "${CMAKE_CURRENT_BINARY_DIR}/${name}_stub.cpp")
  set(part "${CMAKE_CURRENT_BINARY_DIR}/${name}_device/part.o")
  add_custom_target(${name}_device ALL
    COMMAND sh "${STAND_IN_DIR}/compile.sh" "${ASCEND_CANN_PACKAGE_PATH}/fault" "${source}" "${part}"
      "${SOC_VERSION}" "$<TARGET_PROPERTY:${name}_interface,INCLUDES>"
    VERBATIM)
  # One string, which is split at blanks.
  add_custom_target(${name}_fatbin_obj ALL
    COMMAND sh "${STAND_IN_DIR}/merge.sh"
      "${ASCEND_CANN_PACKAGE_PATH}/fault ${part} ${CMAKE_INSTALL_PREFIX}/fatbin/${name}/${name}.o"
    VERBATIM)
  add_dependencies(${name}_fatbin_obj ${name}_device)
endfunction()

function(ascendc_include_directories name scope)
  set_target_properties(${name}_interface PROPERTIES INCLUDES "${ARGN}")
endfunction()
