# cmake -DOBJECT=FILE -DKERNEL=FILE -DSOURCES=FOLDER -P take.cmake
#
# Copies the object that the toolkit has made to where it is looked for. The toolkit's last steps can fail
# without an error: then there is no object, or the one of an earlier build.
if(NOT EXISTS "${OBJECT}")
  message(FATAL_ERROR "the toolkit has reported no error and made no ${OBJECT}")
endif()
file(SIZE "${OBJECT}" size)
if(size EQUAL 0)
  message(FATAL_ERROR "the toolkit has reported no error and made no ${OBJECT}: the file is empty")
endif()
file(GLOB sources "${SOURCES}/*")
foreach(source IN LISTS sources)
  if(NOT "${OBJECT}" IS_NEWER_THAN "${source}")
    message(FATAL_ERROR "${OBJECT} is stale, of an earlier build: it is older than ${source}")
  endif()
endforeach()
configure_file("${OBJECT}" "${KERNEL}" COPYONLY)
